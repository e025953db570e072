"""A model's name becomes something to load: where it lies, how it chats, what runs it."""
