"""Trained models for people and programs: a page to drop photos on, by a server or as a folder of files."""
