"""From prompts to tokens: the library's `generate`, and the slots that do the same in less time."""
