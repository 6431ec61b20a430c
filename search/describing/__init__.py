"""What a picture shows, and which question would tell hits apart."""
