"""What the model of text has read before it reads a header: plans and tables look like this.

Part of the format: another text needs another version.
"""

from __future__ import annotations

KNOWN = (
    b'{"format":1,"source":{"spec":"lissom:resnet20","arguments":{}},"signature":'
    b'"1234567890abcdef0987654321fedcba","tensors":{},"decisions":[\n'
    b'{"kind":"fold_batch_norm","layer":"conv1","norm":"bn1"},\n'
    b'{"kind":"fold_batch_norm","layer":"layer1.0.conv1","norm":"layer1.0.bn1"},\n'
    b'{"kind":"fold_batch_norm","layer":"layer1.0.conv2","norm":"layer1.0.bn2"},\n'
    b'{"kind":"quantize","layer":"conv1","bits":3,"nonzero":128,"channel_scales":true},\n'
    b'{"kind":"quantize","layer":"layer1.0.conv1","bits":2,"nonzero":4096,"channel_scales":true},\n'
    b'{"kind":"quantize","layer":"linear","bits":3,"nonzero":306,"channel_scales":false}\n]}\n'
    b"(\0\nconv1.bias\1\0\1\x10\6\6weight!\0\4\x10\3\3\3\0\x13layer1.0.conv1.bias\1\0\1\x10\x0f\6"
    b"weight!\0\4\x10\x10\3\3\r\0062.bias\1\0\1\x10\x0f\6weight!\0\4\x10\x10\3\3\7\x0c1.conv1.bias\1"
    b"\0\1\x10\x0f\6weight!\0\4\x10\x10\3\3\r\0062.bias\1\0\1 \x0f\6weight!\0\4  \3\3\5\x0e2.0.conv"
    b"1.bias\1\0\1@\x0f\6weight!\0\4@@\3\3"
)
