"""What happens to images.

`distort` has the operations, `augment` draws them at random for training, and `corrupt` fixes twelve of them for
testing.
"""
