"""The built-in data sets, as files; SOURCES.md says where each comes from."""
