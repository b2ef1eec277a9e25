"""What stands above every answer, on the page and in the terminal."""

NOTICE = "This is no medical device. What the models say may be wrong, and nothing here is medical advice."
