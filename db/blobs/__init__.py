"""The blob store: bytes under keys, in a folder or in S3."""
