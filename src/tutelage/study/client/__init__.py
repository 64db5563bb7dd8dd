"""A chat model behind one interface: over HTTP or in the process, with a budget and a store of every answer."""
