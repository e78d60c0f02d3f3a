"""Learning a poster's genres: arrays and files in, files and figures out.

Runs by itself (`python -m ml train --help`) wherever torch is; knows no orchestrator, tracker or cloud.
"""
