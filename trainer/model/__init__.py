"""The networks that recipes are composed of: backbone, projection head, linear probe and attention read-outs."""
