"""Pages for people: server-rendered, readable without JavaScript, live where there is some."""
