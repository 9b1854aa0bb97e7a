"""The parts that recipes are composed of: backbone, projection head, linear probe, attention read-out."""
