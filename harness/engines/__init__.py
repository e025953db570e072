"""What writes and measures text: vLLM, any OpenAI-compatible endpoint, transformers, a script for tests."""
