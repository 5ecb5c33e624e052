"""Jinja templates, in a sandbox and a process of their own: chats to text, columns to prompts.

Imports `model` and the values of `job`.
Read `chat_template.py` first, then `render_process.py`.
"""
