"""Stored results: what a file of them holds, and how it is read. bench writes them; compare, the pages and study read them.

kinds     kinds of layers, and a layer's spec as data
store     both forms of file as one kind of object
schema    what a file must hold
"""
