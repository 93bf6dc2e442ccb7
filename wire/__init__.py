"""Types that cross a process border, shared by the services. Imports only msgspec and pydantic."""
