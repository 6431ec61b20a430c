"""What a picture of a person shows, by categories of phrases, and which question tells candidates apart best."""
