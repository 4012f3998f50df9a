"""The official openai package for JavaScript, unmodified, run by node."""

from support import javascript
from support.models import CHAT, EMBEDDINGS


def test_openai_for_javascript(batchwise):
    javascript.run("openai.test.mjs", batchwise, CHAT_MODEL=CHAT, EMBEDDING_MODEL=EMBEDDINGS)
