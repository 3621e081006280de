"""The published intensity window of CT priors."""
CT_WINDOW = (-1000.0, 1600.0)    # HU that the prior's intensities 0 and 1 stand for
