"""The pictures. The only folder that imports matplotlib."""
