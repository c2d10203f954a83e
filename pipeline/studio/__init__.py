"""The browser editor: `photodrag studio`. Needs the extra `studio`; nothing else imports it."""
