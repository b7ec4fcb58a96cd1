//! Images that fail: verdict, first line, exit code.
