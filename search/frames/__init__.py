"""People in frames: their boxes, crops of them, detectors that find them, and frames of videos."""
