"""From a trained network to a file that runs without nlseg, and the proof that it says the same.

tracing    the blocks in the form in which a graph can hold them: linear memory, no own operator
network    what the file computes: preprocessing, whole images or windows, logits or labels
facts      what the file says of itself: classes, colours, mean, std, channel order, sizes
writing    torch.export, and from there ONNX or pt2
parity     the written file in a process of its own against the network, on five sizes
run_file   that process; imports numpy and the runtime alone
runtime    label images by an ONNX file, without PyTorch
int8       integers in the convolutions, and the mIoU that they cost
"""
