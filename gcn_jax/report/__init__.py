"""The page ``report.html``: Python prepares its values, ``templates/`` hold its markup, ``style.css`` its looks."""
