"""How far a run is."""
from tqdm import tqdm


def progress_bar(iterable, label: str, **options):
    """A progress bar on a terminal, nothing elsewhere."""
    return tqdm(iterable, label, disable=None, **options)
