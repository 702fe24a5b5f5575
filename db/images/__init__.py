"""The images that owners have stored: what is known of them, and when they are collected."""
