"""The models of the repository's models.toml: all run inside the server, so no backend is needed."""

DIGITS = "digits"
EMBEDDINGS = "embedding"
CHAT = "echo"
