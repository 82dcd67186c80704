"""What is measured on real files with real runtimes, with conditions and spread."""
