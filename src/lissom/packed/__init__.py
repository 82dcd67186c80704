"""The packed file: one file that is really as small as the compression ratio says."""
