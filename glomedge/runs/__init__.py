"""Complete runs: from a folder of crops to a folder of results, or an evaluation of a labelled data set."""
