"""Where a gallery's plain files and images are: folders, or storage that several machines share."""
