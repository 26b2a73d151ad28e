"""The OCI image, layout and distribution specifications. Knows nothing about Hugging Face."""
