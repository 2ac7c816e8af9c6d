"""Loads what Espalier wrote with transformers and tokenizers and compares. Run by hf_test.cc, or by hand:

    python hf_check.py DIRECTORY

DIRECTORY holds config.json, model.safetensors, tokenizer.json, expected.safetensors (tokens [T], logits [T, vocab])
and encodings.json ([{"text": …, "ids": […]}]). Prints the largest difference; exit code 1 when something differs.
"""
import json
import pathlib
import sys

import safetensors.torch
import tokenizers
import torch
import transformers


def main() -> int:
    directory = pathlib.Path(sys.argv[1])
    config = transformers.AutoConfig.from_pretrained(directory)
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, output_loading_info=True)
    problems = {key: value for key, value in info.items() if value}
    print(f"transformers {transformers.__version__}: {type(model).__name__}, rope "
          f"{getattr(config, 'rope_parameters', None) or config.rope_theta}, loading problems: {problems or 'none'}")
    expected = safetensors.torch.load_file(directory / "expected.safetensors")
    with torch.no_grad():
        logits = model(expected["tokens"][None]).logits[0]
    difference = (logits - expected["logits"]).abs().max().item()
    print(f"largest logit difference: {difference:.3g} over {tuple(logits.shape)}, "
          f"largest logit {logits.abs().max().item():.3g}")

    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    wrong = 0
    cases = json.loads((directory / "encodings.json").read_text())
    for case in cases:
        ids = tokenizer.encode(case["text"]).ids
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if ids != case["ids"] or decoded != case["text"]:
            wrong += 1
            print("tokenizers differs:", repr(case["text"]), ids, case["ids"], repr(decoded))
    print(f"tokenizers {tokenizers.__version__}: {len(cases) - wrong} of {len(cases)} encodings equal, "
          f"vocabulary {tokenizer.get_vocab_size()}")
    return 0 if difference <= 1e-4 and wrong == 0 and not problems else 1


sys.exit(main())
