"""What the volumes and metrics of a run are, in words."""

NAMES = {"GT": "truth", "recon": "reconstruction", "FBP-LV": "FDK of the views used", "FBP-FV": "FDK of all views",
         "IR": "SIRT of the views used", "ATy": "measured slices, repeated", "std": "standard deviation of the samples"}

METRICS = {    # key: name, which way is better, explanation
    "psnr": ("PSNR (dB)", "higher is better", "peak signal-to-noise ratio: the truth's range against the mean square "
             "error"),
    "ssim": ("SSIM", "higher is better", "structural similarity: 1 for a volume that equals the truth"),
    "inter_slice_error": ("inter-slice error", "lower is better", "mean error of the step from one slice to the next, "
                          "in the range 0 to 1: jumps between slices that the truth does not have"),
    "sharpness": ("sharpness", "1 is best", "how much of the truth's edges is there: less where they are blurred; "
                  "noise does not change it")}


def name_of(stem: str) -> str:
    """A volume's name in words, given its file's stem."""
    return NAMES.get(stem, stem)
