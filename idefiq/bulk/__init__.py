"""Many images in, an answer for each out, and nothing done twice.

sources ─▶ manifest ─▶ upload, submit ─▶ the service ─▶ manifest ─▶ outputs
           (what is there, what was asked, what was said: it survives every interruption)
"""
