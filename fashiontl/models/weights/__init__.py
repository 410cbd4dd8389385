"""Where a network's weights come from: none, published, pretrained here, or a user's file."""
