"""What a test found, and why: facts of each image, what follows from them, and one page.

facts      label, prediction, confidence of one image -> counts that the rest is made of
analysis   facts of all images -> scores with intervals, calibration, where the points went
page       analysis -> HTML with all pictures inside
comparison facts of several evaluations -> differences with intervals and paired tests
hook       gathers facts while a test or the last validation runs, and writes the page
"""
