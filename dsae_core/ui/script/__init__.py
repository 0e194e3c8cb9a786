"""The one script that the server runs. It has a folder to itself: beside a folder "pages" Streamlit would take that
folder's modules for scripts, until the first visit has told it otherwise."""
