"""From a checkpoint to a folder that others can use, and to the Hugging Face Hub.

folder      model.safetensors, NAME-HASH8.pth, config.json, README.md, example.jpg
card        the README: a model card with a YAML head
pretrained  the class of the Hub's save_pretrained and from_pretrained
"""
