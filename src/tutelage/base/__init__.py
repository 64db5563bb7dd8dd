"""What every other room stands on: errors, files, run folders, progress, the machine."""
