"""The leaderboard in Markdown: `page` puts it together from sections, rows, columns and footnotes."""
