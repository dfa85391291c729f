"""Results and what they amount to. bench makes them; `convatlas compare`, the pages and study read them.

kinds        kinds of layers, and a layer's spec as data
store        an Entry, the record of one measurement; both forms of file, read and written
schema       what a file must hold
stats        from samples to verdicts
standings    a Race, all entries of a case; races summed up
comparison   two runs, or two contestants of one, benchmark by benchmark
"""
