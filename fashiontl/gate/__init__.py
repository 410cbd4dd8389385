"""The regression gate: is a change slower, larger or less accurate than its base? No torch but in its arms."""
