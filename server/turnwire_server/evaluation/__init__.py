"""The evaluation gate: suites of conversations, played through the real server and scored.

`suite` reads the file, `model` is the scripted model, `server` starts the server, `play` is the client that plays a
case, `score` judges what came of it, `report` gathers, `gate` decides. `turnwire eval` puts them together. Above the
application, which it starts as any other user of it would; nothing of the server knows that it is evaluated.
"""
