"""What ``bench.studies.against`` runs in each tree, whatever its layout."""
