"""The output folder: where each thing lies, how it is committed, and how it is read again. No Beam, no TensorFlow.

`layout.py` names the files, `contract.py` fixes what a dataset holds, `plan.py` and `parts.py` are the commit
protocol, `publish.py` ends a run, `lock.py` keeps a second one out, `reading.py` is for users.
"""
