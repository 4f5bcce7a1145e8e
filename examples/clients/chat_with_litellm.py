import litellm

server = {"model": "openai/chitchat", "api_base": "http://127.0.0.1:8000/v1", "api_key": "none"}
messages = [{"role": "user", "content": "Hello!"}]
print(litellm.completion(messages=messages, **server).choices[0].message.content)
for chunk in litellm.completion(messages=messages, stream=True, **server):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
