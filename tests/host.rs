//! Hosts that refuse: exit 3 with cause and fix.
