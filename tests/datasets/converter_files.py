"""Annotations as VOC's, YOLO's and csv's tools write them, for the tests of the converters."""

from PIL import Image

LABELIMG = """<annotation>
\t<folder>images</folder>
\t<filename>street one.jpg</filename>
\t<path>C:\\Users\\me\\images\\street one.jpg</path>
\t<source>
\t\t<database>Unknown</database>
\t</source>
\t<size>
\t\t<width>100</width>
\t\t<height>80</height>
\t\t<depth>3</depth>
\t</size>
\t<segmented>0</segmented>
\t<object>
\t\t<name>traffic light</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>1</truncated>
\t\t<difficult>0</difficult>
\t\t<bndbox>
\t\t\t<xmin>10</xmin>
\t\t\t<ymin>20</ymin>
\t\t\t<xmax>30</xmax>
\t\t\t<ymax>60</ymax>
\t\t</bndbox>
\t</object>
\t<object>
\t\t<name>car</name>
\t\t<pose>Unspecified</pose>
\t\t<truncated>0</truncated>
\t\t<difficult>1</difficult>
\t\t<bndbox>
\t\t\t<xmin>1</xmin>
\t\t\t<ymin>1</ymin>
\t\t\t<xmax>100</xmax>
\t\t\t<ymax>80</ymax>
\t\t</bndbox>
\t</object>
</annotation>
"""

# VOC 2007: coordinates from 1, parts of a person with boxes of their own.
VOC2007 = """<annotation>
  <folder>VOC2007</folder>
  <filename>000001.jpg</filename>
  <source><database>The VOC2007 Database</database><image>flickr</image></source>
  <owner><flickrid>x</flickrid><name>owner</name></owner>
  <size><width>100</width><height>80</height><depth>3</depth></size>
  <segmented>0</segmented>
  <object>
    <name>person</name><pose>Left</pose><truncated>1</truncated><difficult>0</difficult>
    <bndbox><xmin>1</xmin><ymin>11</ymin><xmax>100</xmax><ymax>80</ymax></bndbox>
    <part><name>head</name>
      <bndbox><xmin>40</xmin><ymin>20</ymin><xmax>50</xmax><ymax>30</ymax></bndbox></part>
  </object>
</annotation>
"""

# CVAT: fractions, subfolders, attributes and no <difficult>.
CVAT = """<annotation>
  <folder></folder>
  <filename>day/frame_000001.PNG</filename>
  <size><width>100</width><height>80</height><depth></depth></size>
  <segmented>0</segmented>
  <object>
    <name>car</name><occluded>0</occluded>
    <bndbox><xmin>10.25</xmin><ymin>20.5</ymin><xmax>30.75</xmax><ymax>40.0</ymax></bndbox>
    <attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes>
  </object>
</annotation>
"""

# TensorFlow's xml_to_csv, with a class that has a comma in its name.
CSV = """filename,width,height,class,xmin,ymin,xmax,ymax
b.jpg,100,80,"cup, small",10,20,30,60
a.jpg,100,80,car,0,0,50,40
b.jpg,100,80,car,5,5,25,35
"""

DATA_YAML = """train: ../train/images
val: ../valid/images

nc: 2
names: ['cup', 'traffic light']

roboflow:
  license: CC BY 4.0
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def image(path, size=(100, 80), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "gray").save(path, **options)
    return path
