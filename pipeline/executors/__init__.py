"""Who computes the photos of a batch: processes of this machine, or a Ray cluster; `protocol` says what they share."""
