from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
messages = [{"role": "user", "content": "Hello!"}]
response = client.chat.completions.create(model="chitchat", messages=messages)
print(response.choices[0].message.content)

messages += [response.choices[0].message, {"role": "user", "content": "What did you do today?"}]
for chunk in client.chat.completions.create(model="chitchat", messages=messages, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
