"""From a request to a result: order, slots, timestamps."""
