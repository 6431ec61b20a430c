"""Person search with CLIP's dual encoder: IRRA (CVPR 2023) and RDE (CVPR 2024)."""
